//go:build !unix

package main

import (
	"io"
	"os"
)

// stdio is stdin and stdout as one stream.
func stdio() (io.ReadWriteCloser, error) { return pair{os.Stdin, os.Stdout}, nil }
