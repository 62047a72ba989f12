"""The translation service: a small HTTP API and one web page over an exported model or a bundle.

Needs the optional dependencies ``serve`` (FastAPI, uvicorn). Nothing else in the package imports this.
"""
