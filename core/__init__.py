"""What every room uses: errors, files, and reading of what comes from outside."""
