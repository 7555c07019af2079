//go:build !linux

package netlab

import "errors"

// Check says why there can be no lab here.
func Check() error { return errors.New("netlab needs Linux") }
