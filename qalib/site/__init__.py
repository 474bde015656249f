"""The site: notebooks, course, reports, the live page and the API reference as static pages."""
