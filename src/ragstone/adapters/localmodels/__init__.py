"""Small embedding models on the CPU, fetched once by digest and verified whenever they are loaded."""
