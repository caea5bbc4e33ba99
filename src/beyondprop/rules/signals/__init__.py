"""Rules in which a teaching signal reaches each layer."""
