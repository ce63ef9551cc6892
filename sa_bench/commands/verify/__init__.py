"""`verify`: is what a stranger says of images what this machine says of them?"""
