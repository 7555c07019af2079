package winsvc

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"golang.org/x/sys/windows"
	"golang.org/x/sys/windows/svc"
	"golang.org/x/sys/windows/svc/mgr"
)

// stopLimit is what a service gets to end after it was told to.
const stopLimit = 30 * time.Second

// RunService runs f as the service that the service control manager started this process for. It counts as running as soon
// as f calls ready, so that whoever started it can speak to it then. The context ends when the service is stopped or the
// machine shuts down. It fails at once in a process that the manager did not start.
func RunService(name string, f func(ctx context.Context, ready func()) error) error {
	h := &handler{run: f}
	if err := svc.Run(name, h); err != nil {
		return fmt.Errorf("service %s: %w", name, err)
	}
	return h.err
}

type handler struct {
	run func(ctx context.Context, ready func()) error
	err error
}

// Execute implements svc.Handler.
func (h *handler) Execute(_ []string, requests <-chan svc.ChangeRequest, status chan<- svc.Status) (bool, uint32) {
	const accepts = svc.AcceptStop | svc.AcceptShutdown
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	status <- svc.Status{State: svc.StartPending, WaitHint: uint32(stopLimit.Milliseconds())}
	done := make(chan error, 1)
	ready := make(chan struct{})
	go func() { done <- h.run(ctx, sync.OnceFunc(func() { close(ready) })) }()
	var late <-chan time.Time
	for {
		select {
		case <-ready:
			status <- svc.Status{State: svc.Running, Accepts: accepts}
			ready = nil
		case h.err = <-done:
			if h.err != nil && ctx.Err() == nil {
				return true, 1 // of our own numbers: it ended by itself
			}
			return false, 0
		case <-late:
			h.err = errors.New("did not end in time")
			return true, 2
		case r := <-requests:
			switch r.Cmd {
			case svc.Interrogate:
				status <- r.CurrentStatus
			case svc.Stop, svc.Shutdown:
				if late == nil {
					status <- svc.Status{State: svc.StopPending, WaitHint: uint32(stopLimit.Milliseconds())}
					late, ready = time.After(stopLimit), nil
					cancel()
				}
			}
		}
	}
}

// Service is what is installed.
type Service struct {
	Name        string // [a-z0-9-]
	Title       string
	Description string
	Program     string // absolute path
	Args        []string
}

// InstallService makes a service that starts with the machine, as LocalSystem, and starts it. That it exists is
// fs.ErrExist. The note says in words what this system did not take; the service works without it.
func InstallService(ctx context.Context, s Service) (note string, err error) {
	if err := checkName(s.Name); err != nil {
		return "", err
	}
	m, err := mgr.Connect()
	if err != nil {
		return "", fmt.Errorf("service control manager: %w", err)
	}
	defer m.Disconnect()
	service, err := m.CreateService(s.Name, s.Program, mgr.Config{
		StartType: mgr.StartAutomatic, ErrorControl: mgr.ErrorNormal, DisplayName: s.Title, Description: s.Description}, s.Args...)
	if err != nil {
		return "", serviceError("create", s.Name, err)
	}
	defer service.Close()
	again := []mgr.RecoveryAction{{Type: mgr.ServiceRestart, Delay: time.Minute}, {Type: mgr.ServiceRestart, Delay: 5 * time.Minute}, {Type: mgr.NoAction}}
	if err := service.SetRecoveryActions(again, uint32((24 * time.Hour).Seconds())); err != nil {
		note = "not restarted after a failure: " + err.Error()
	}
	if err := start(ctx, service); err != nil {
		return note, errors.Join(serviceError("start", s.Name, err), service.Delete())
	}
	return note, waitState(ctx, service, s.Name, svc.Running)
}

// start starts a service. While the machine itself starts, the manager's database is locked; that is waited for.
func start(ctx context.Context, service *mgr.Service) error {
	ctx, cancel := context.WithTimeout(ctx, stopLimit)
	defer cancel()
	for {
		err := service.Start()
		if err != windows.ERROR_SERVICE_DATABASE_LOCKED {
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(200 * time.Millisecond):
		}
	}
}

// RemoveService stops a service and removes it. One that is not there is no error.
func RemoveService(ctx context.Context, name string) error {
	if err := checkName(name); err != nil {
		return err
	}
	m, err := mgr.Connect()
	if err != nil {
		return fmt.Errorf("service control manager: %w", err)
	}
	defer m.Disconnect()
	service, err := m.OpenService(name)
	if err == windows.ERROR_SERVICE_DOES_NOT_EXIST {
		return nil
	}
	if err != nil {
		return serviceError("open", name, err)
	}
	defer service.Close()
	if _, err := service.Control(svc.Stop); err != nil && err != windows.ERROR_SERVICE_NOT_ACTIVE {
		return serviceError("stop", name, err)
	}
	if err := waitState(ctx, service, name, svc.Stopped); err != nil {
		return err
	}
	if err := service.Delete(); err != nil && err != windows.ERROR_SERVICE_MARKED_FOR_DELETE {
		return serviceError("delete", name, err)
	}
	return nil
}

// UnregisterService removes the entry of the service that this process is, which ends with it.
func UnregisterService(name string) error {
	m, err := mgr.Connect()
	if err != nil {
		return fmt.Errorf("service control manager: %w", err)
	}
	defer m.Disconnect()
	service, err := m.OpenService(name)
	if err != nil {
		return serviceError("open", name, err)
	}
	defer service.Close()
	if err := service.Delete(); err != nil && err != windows.ERROR_SERVICE_MARKED_FOR_DELETE {
		return serviceError("delete", name, err)
	}
	return nil
}

// waitState waits until a service is in a state, for stopLimit at most.
func waitState(ctx context.Context, service *mgr.Service, name string, want svc.State) error {
	ctx, cancel := context.WithTimeout(ctx, stopLimit)
	defer cancel()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		s, err := service.Query()
		if err != nil {
			return serviceError("query", name, err)
		}
		if s.State == want {
			return nil
		}
		if want == svc.Running && s.State == svc.Stopped {
			return fmt.Errorf("service %s ended when it was started: exit code %d, of its own %d", name, s.Win32ExitCode, s.ServiceSpecificExitCode)
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("service %s: state %d, want %d: %w", name, s.State, want, ctx.Err())
		case <-tick.C:
		}
	}
}

func serviceError(op, name string, err error) error {
	return fmt.Errorf("%s service %s: %w", op, name, err)
}
