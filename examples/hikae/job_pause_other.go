//go:build !unix

package main

import "context"

// hearPauses does nothing: this system has no signals for it.
func (r *jobRun) hearPauses(context.Context) (stop func()) { return func() {} }
