package service

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"golang.org/x/sys/windows/registry"
	"golang.org/x/sys/windows/svc"
	"golang.org/x/sys/windows/svc/mgr"
)

// listening is closed when the service does its work. A process is one service, so there is one of it.
var (
	listening = make(chan struct{})
	once      sync.Once
)

func ready() { once.Do(func() { close(listening) }) }

// Run runs a program as what it is: under the service manager it obeys it, else it just runs.
func Run(ctx context.Context, name string, run func(context.Context) error) error {
	if inService, err := svc.IsWindowsService(); err != nil || !inService {
		return errors.Join(err, run(ctx))
	}
	h := &handler{ctx: ctx, run: run}
	return errors.Join(svc.Run(name, h), h.err)
}

// startHintMillis is how long the service manager waits for the next word of a service that starts.
const startHintMillis = 15_000

// handler does what the service manager asks for.
type handler struct {
	ctx context.Context
	run func(context.Context) error
	err error
}

// Execute is as svc.Handler has it.
func (h *handler) Execute(_ []string, requests <-chan svc.ChangeRequest, status chan<- svc.Status) (specific bool, code uint32) {
	const accepted = svc.AcceptStop | svc.AcceptShutdown
	ctx, cancel := context.WithCancel(h.ctx)
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- h.run(ctx) }()
	starting := svc.Status{State: svc.StartPending, WaitHint: startHintMillis}
	status <- starting
	tick := time.NewTicker(startHintMillis / 3 * time.Millisecond)
	defer tick.Stop()
	started := listening
	for {
		select {
		case <-started:
			started = nil
			tick.Stop()
			status <- svc.Status{State: svc.Running, Accepts: accepted}
		case <-tick.C: // to open a large repository takes its time
			starting.CheckPoint++
			status <- starting
		case h.err = <-done:
			if h.err != nil {
				return true, 1
			}
			return false, 0
		case r := <-requests:
			switch r.Cmd {
			case svc.Interrogate:
				status <- r.CurrentStatus
			case svc.Stop, svc.Shutdown:
				started = nil
				tick.Stop()
				status <- svc.Status{State: svc.StopPending, WaitHint: StopSeconds * 1000}
				cancel()
			}
		}
	}
}

// Install makes a service that starts with the system and is started again when it fails. where says how it is looked at.
func Install(d Description) (where string, err error) {
	m, err := mgr.Connect()
	if err != nil {
		return "", err
	}
	defer m.Disconnect()
	args := d.Args
	var environment []string
	for _, secret := range d.Secrets {
		if secret.Flag != "" {
			args = append(args[:len(args):len(args)], secret.Flag, secret.File)
		}
		if secret.Variable != "" {
			environment = append(environment, secret.Variable+"="+secret.File)
		}
	}
	s, err := m.CreateService(d.Name, d.Program, mgr.Config{
		DisplayName: d.Title, Description: d.Title, StartType: mgr.StartAutomatic, DelayedAutoStart: true,
		SidType: 1, // SERVICE_SID_TYPE_UNRESTRICTED: folders can be opened to this service alone
	}, args...)
	if err != nil {
		return "", fmt.Errorf("service %s: %w", d.Name, err)
	}
	defer s.Close()
	again := []mgr.RecoveryAction{{Type: mgr.ServiceRestart, Delay: 5 * time.Second}, {Type: mgr.ServiceRestart, Delay: 30 * time.Second}}
	if err := s.SetRecoveryActions(again, 24*3600); err != nil {
		return "", errors.Join(fmt.Errorf("service %s: %w", d.Name, err), s.Delete())
	}
	if err := setEnvironment(d.Name, environment); err != nil {
		return "", errors.Join(fmt.Errorf("service %s: %w", d.Name, err), s.Delete())
	}
	return "sc.exe query " + d.Name, s.Start()
}

// setEnvironment gives a service variables of its own, which the service manager reads when it starts it.
func setEnvironment(name string, variables []string) error {
	if len(variables) == 0 {
		return nil
	}
	key, err := registry.OpenKey(registry.LOCAL_MACHINE, `SYSTEM\CurrentControlSet\Services\`+name, registry.SET_VALUE)
	if err != nil {
		return err
	}
	return errors.Join(key.SetStringsValue("Environment", variables), key.Close())
}

// Remove stops a service and removes it.
func Remove(name string) error {
	m, err := mgr.Connect()
	if err != nil {
		return err
	}
	defer m.Disconnect()
	s, err := m.OpenService(name)
	if err != nil {
		return fmt.Errorf("service %s: %w", name, err)
	}
	defer s.Close()
	state, err := s.Control(svc.Stop)
	for end := time.Now().Add(StopSeconds * time.Second); err == nil && state.State != svc.Stopped && time.Now().Before(end); {
		time.Sleep(200 * time.Millisecond)
		state, err = s.Query()
	}
	return s.Delete()
}
