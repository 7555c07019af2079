// Package helper asks a Hyper-V host's Volume Shadow Copy Service for backups of its VMs, from another machine. No protocol does
// that from afar, so a small program of ours (hikae-hyperv) is brought to the host over SMB, runs there as a service for as long as the
// backup takes, and goes with it. It is a [hyperv.Requester].
//
//	way := smbchannel.New("hv1.example.org", credential, nil)
//	r, err := helper.Connect(ctx, way, helper.ProgramsIn(os.DirFS("bin/agents")), &helper.Options{Journal: journal})
//	defer r.Close()
//	set, err := r.Take(ctx, hyperv.SetRequest{Mark: mark, VMs: ids})
//
// # What it does on a host
//
//	ADMIN$     a folder hikae-… in C:\Windows, closed to everybody but SYSTEM and Administrators, with one program in it
//	svcctl     a service hikae-… that runs it as LocalSystem, which the service's writers ask for
//	hikae-…    its pipe, for one client: requests to the shadow copy service, and the data of shadow copies
//	C:\Windows\hikae-sets
//	           an empty file for each set that was begun, named by its mark: what a sweep finds when all else is gone
//
// Close takes all of it away, and looks. What an ended process left is in the journal (an effect of kind [EffectKind], undone by
// [Undo]); shadow copies do not outlive the program that asked for them.
//
// # What ends a set
//
// Delete and Close; the end of the link; silence for longer than the lease; the end of the program. A set is never taken over by
// another session, and what was being read from it fails.
//
// # Not yet verified on Windows
//
// It met our own fakes, a real Samba between, and wine. [Requester.Unverified] says so, and is to be shown.
package helper
