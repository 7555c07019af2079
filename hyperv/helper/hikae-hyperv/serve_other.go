//go:build !windows

package main

import (
	"context"

	"github.com/hikae/hikae/hyperv/helper/requester"
)

// serve has nothing to serve here.
func (*piped) serve(context.Context) error {
	_, err := requester.System()
	return err
}
