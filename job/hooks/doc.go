// Package hooks tells others that a job begins or has ended: programs of this machine ([Script]), and addresses that a document is
// posted to ([Webhook]).
//
// # What is told
//
// A [Call] says what happens: the moment, the job, the run, the VM, and after the work its outcome. A program finds it in variables
// of its environment, and as JSON on its standard input; an address gets the same JSON.
//
//	HIKAE_HOOK       before-job, after-job, before-vm or after-vm
//	HIKAE_JOB        the job's name
//	HIKAE_RUN        the run's id
//	HIKAE_VM         the VM's name; empty where the whole job is meant
//	HIKAE_STATE      after the work: done, warned, failed or cancelled
//	HIKAE_POINT      the id of the restore point that was made
//	HIKAE_ERROR      why it failed, on one line
//	HIKAE_WARNINGS   how many warnings there are
//	HIKAE_SECONDS    how long it took
//
// # Programs
//
// A program is run directly and never by a shell, so that no name of a VM can become a command. Of the environment of the calling
// process it gets only what programs need to run at all: no secret of Hikae's is in it. It has a deadline, at which it is ended
// together with what it has started; what it prints is kept up to a bound. What a failure means is for the caller to decide.
//
// # Posts, and how to check them
//
// A post is signed, so that whoever receives it knows that it is from here, and not one from before:
//
//	Hikae-Signature: t=1795399200,v1=5257a869e7…
//	Hikae-Delivery:  01JD… (the same for all attempts at one delivery)
//
// v1 is HMAC-SHA256, in hexadecimal, of the number after t=, a dot, and the body as it was received, with the secret as the key. The
// receiver computes it, compares in constant time, and refuses a t that is more than five minutes off. [Verify] does that; in Python
// it is
//
//	t, v1 = (part.split("=", 1)[1] for part in header.split(","))
//	want = hmac.new(secret, t.encode() + b"." + body, hashlib.sha256).hexdigest()
//	ok = hmac.compare_digest(want, v1) and abs(time.time() - int(t)) <= 300
//
// An answer of 2xx is a delivery. Connections that fail, 408, 425, 429 and 5xx are tried again with a growing wait; anything else is
// final, a redirect too: it is not followed, since it could lead anywhere. The address is https:// unless the caller allows
// otherwise. An address that is wrong or does not answer is an error for a report, and never a reason to lose a backup.
package hooks
