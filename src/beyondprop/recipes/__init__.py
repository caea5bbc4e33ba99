"""One file a paper: its experiments, with the paper's own numbers beside them."""
