"""What travels and what it cost: manifests, verified swaps, the bill. Imports nothing of ours."""
