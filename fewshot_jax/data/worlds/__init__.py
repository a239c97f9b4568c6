"""Generated tasks: small worlds whose rules are new in every episode and follow from its support set."""
