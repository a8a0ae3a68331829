"""Lit-GPT's naming of models, in all its eras: tables of names, row orders and settings, and what reads them."""
