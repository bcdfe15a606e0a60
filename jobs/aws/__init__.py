"""What is AWS's: credentials, errors, quotas, prices, images, and the network of a rented machine.

Nothing here imports boto3 when it is imported; it is asked for where AWS is.
"""
