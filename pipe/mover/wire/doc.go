// Package wire is what two movers say to each other: frames, the closed set of messages in them, and their bounds.
//
// It knows bytes and nothing of connections. PROTOCOL.md in the folder above has the same with pictures, and what each
// message means.
//
// A message has one method that names its fields in order; writing and reading both go through it, so that they cannot
// disagree. Decoding trusts nothing: every kind has a bound, every count is held against the bytes that are left before
// anything is allocated for it, and bytes left over are an error.
package wire
