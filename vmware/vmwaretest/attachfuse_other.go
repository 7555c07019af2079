//go:build !linux

package vmwaretest

import "errors"

// mountGuest says that there is no such view here.
func mountGuest(string, guestTree) (func() error, error) {
	return nil, errors.New("the guest's view needs FUSE on Linux")
}
