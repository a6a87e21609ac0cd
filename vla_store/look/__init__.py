"""What a person looks at: `info` as text, one episode as a picture (`sheet`), a store as an HTML page (`page`). May import the reader."""
