"""Networks of principal components, fitted layer by layer: PCANet, and ResCNet of hundreds of layers."""
