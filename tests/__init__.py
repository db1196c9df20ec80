"""The tests mirror the source tree; oracle/ compares with other implementations and e2e/ runs the command line."""
