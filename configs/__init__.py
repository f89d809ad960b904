"""Configurations by name, a file each: `flashvtg_jax.load_config("demo")`.

In a checkout this folder is at the top; installed, it is the package `flashvtg_jax.configs`.
"""
