"""The same policies in other frameworks, one file each. Nothing here is imported by the rest of the package."""
