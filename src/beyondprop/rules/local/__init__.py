"""Rules in which each block has an objective of its own."""
