"""What tests share: servers, small corpora and models, peers."""
