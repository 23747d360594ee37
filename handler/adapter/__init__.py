"""From a Lambda event to the response of its event source: parsing, running the application, formatting and logging."""
