//go:build !windows

package sqlserver

import "errors"

func instances() ([]string, error) { return nil, nil }

func openClient(string) (*client, error) { return nil, errors.ErrUnsupported }
