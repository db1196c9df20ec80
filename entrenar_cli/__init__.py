"""What a person types: arguments in, one clear message or result out."""
