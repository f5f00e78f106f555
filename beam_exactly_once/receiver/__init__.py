"""The receiver: takes requests over HTTP, and answers when their records are durable in a write-ahead log.

The HTTP server is loaded when one is started: ``pip install 'beam_exactly_once[receive]'``.
"""
