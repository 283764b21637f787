"""Localizers made of localizers."""
