//! End-to-end tests: each file of `tests/tests` is one scenario on the real programs. What several scenarios share is in the test
//! kit, so this library is empty.
