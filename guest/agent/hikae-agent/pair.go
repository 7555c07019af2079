package main

import (
	"errors"
	"os"
)

// pair makes a stream of two files.
type pair struct{ in, out *os.File }

func (p pair) Read(b []byte) (int, error)  { return p.in.Read(b) }
func (p pair) Write(b []byte) (int, error) { return p.out.Write(b) }
func (p pair) Close() error                { return errors.Join(p.in.Close(), p.out.Close()) }
