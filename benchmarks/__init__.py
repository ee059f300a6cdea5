"""Speed of the hot steps against the plain formulation: `make bench`. What came out: docs/performance.md."""
