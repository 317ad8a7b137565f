"""Keys, records, namespace labels and destruction. The only package that imports kopf."""
