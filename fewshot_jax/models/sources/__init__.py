"""Where the files of a named model lie: in a directory, on the Hugging Face hub, in an installed package."""
