"""Fine-tune the LLM on what the platform's own users chose next, and measure what that changed."""
