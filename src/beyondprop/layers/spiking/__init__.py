"""Spiking layers whose spike times are exact, and what stands before and behind them."""
