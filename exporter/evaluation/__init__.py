"""Does an artifact compute what the original computes, and how fast."""
