// Package engine runs the tasks of a job, most often one for each virtual machine: as many at once as limits allow, in the order in which they
// stand, each again after a failure, none begun outside of a window, each thing worked on by one session at a time, and so that a run that was
// killed goes on where it was.
//
// It knows nothing of hypervisors or repositories: a task is a function, its needs are names. [Backups] makes tasks of a provider's VMs, and
// [PlanBackups] says beforehand what they would do; [Restores] and [Copies] make tasks of points.
//
//	tasks, release, err := engine.Backups(ctx, provider, nil, repository, nil)
//	…
//	result, err := engine.Run(ctx, "nightly", tasks, &engine.Options{Limits: map[string]int{"tasks": 16, "host/*": 4}})
//	err = errors.Join(err, release(ctx))
//	os.Exit(result.Status())
//
// # Who waits for what
//
// A task waits only for what it needs itself: one that stands behind it and needs something else goes first. It takes all that it needs at once
// or nothing, so that no two wait for each other. Who came first is asked first, and one that could begin but for a resource that others share
// is not passed for ever: after [Options.Patience] nobody behind it takes what it needs. [Waiting] says what it is passed for.
//
// Runs of several processes keep to their limits together by [Options.Shared]. Between them there is no order: whoever asks first when something is
// given back has it. What a process that was killed had is free.
//
// # Hosts that are away
//
// When tasks fail one after another, and all of them need the same resource, that resource rests, longer each time, and one task at a time
// tries whether it is back: one that was not tried yet, as VMs may be bad by themselves. So a host that is away costs its VMs no more than a few attempts. After [Options.GiveUp] such tries in a row,
// what is left of the resource's tasks fails with its name.
//
// # Pause, cancel, kill
//
// [Control] pauses, goes on and cancels, all or one. What is done is written down in [Progress], where there is one: a run that is begun
// again with the same progress does not do again what is done. A Control belongs to one run: who runs one after another makes a new one for each,
// and remembers itself what was cancelled in between.
package engine
