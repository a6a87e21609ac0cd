"""What a person looks at: `sheet` draws one episode as a picture, `page` writes a whole store as an HTML page."""
