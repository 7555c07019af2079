package netlab

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"
	"time"
)

// Check says why there can be no lab here; nil: there can. It tries once.
var Check = sync.OnceValue(check)

func check() error {
	if os.Geteuid() != 0 {
		return fmt.Errorf("netlab needs root")
	}
	for program, pkg := range map[string]string{"ip": "iproute2", "tc": "iproute2", "ss": "iproute2"} {
		if _, err := exec.LookPath(program); err != nil {
			return fmt.Errorf("netlab needs the program %s (package %s)", program, pkg)
		}
	}
	if _, err := os.Stat(tunDevice); err != nil {
		return fmt.Errorf("netlab needs TUN devices: %w", err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	name := spaceName(0, "check")
	if _, err := run(ctx, "ip", "netns", "add", name); err != nil {
		return fmt.Errorf("netlab needs network namespaces: %w", err)
	}
	_, err := run(ctx, "ip", "netns", "del", name)
	return err
}

// run runs a program to its end and returns what it printed.
func run(ctx context.Context, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("%s: %w: %s", strings.Join(args, " "), err, strings.TrimSpace(string(out)))
	}
	return string(out), nil
}
