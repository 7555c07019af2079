package winsvc

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/windows"
)

const firewallLimit = 30 * time.Second

// AllowPort lets connections to one TCP port of a program through the system's firewall, and nothing else. An older rule
// of ours goes first, so that there is one.
func AllowPort(ctx context.Context, program string, port int) error {
	args, err := allowArguments(program, port)
	if err != nil {
		return err
	}
	_ = ForbidPort(ctx) // mostly there is none
	return netsh(ctx, args)
}

// ForbidPort takes the rule away. That there is none is an error of netsh's like any other.
func ForbidPort(ctx context.Context) error { return netsh(ctx, forbidArguments()) }

func netsh(ctx context.Context, args []string) error {
	system, err := windows.GetSystemDirectory()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, firewallLimit)
	defer cancel()
	out, err := exec.CommandContext(ctx, filepath.Join(system, "netsh.exe"), args...).CombinedOutput()
	if err != nil {
		text := strings.TrimSpace(string(out[:min(len(out), 500)]))
		return fmt.Errorf("firewall rule: %w", errors.Join(err, errors.New(strings.ToValidUTF8(text, "·"))))
	}
	return nil
}
