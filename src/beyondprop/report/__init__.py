"""Reports made from result files: tables for the documentation."""
