"""Networks of threshold activations, trained to the global optimum by convex programs."""
