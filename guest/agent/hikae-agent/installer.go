//go:build !runtime

package main

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/hikae/hikae/guest/install/service"
)

// The installer service is part of the same program, so that a guest gets one file: see package guest/install/service. It
// brings TLS, which is half of the program: a build with the tag "runtime" is without it, for guests that get the component
// for one session.
func init() { commands["installer"] = installer }

func installer(ctx context.Context, args []string) error {
	err := service.Run(ctx, args, version, os.Stdout)
	if errors.Is(err, service.ErrUsage) {
		err = fmt.Errorf("%w: %w", errUsage, err)
	}
	return err
}
