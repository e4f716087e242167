"""Side by side: this project and its peers, with the machine's own limits measured in the same run."""
