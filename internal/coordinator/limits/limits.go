// Package limits are those of a coordinator: how long it waits, how often it tries, how much it takes.
package limits

import "time"

// Limits are the numbers that a coordinator works with. Zero values mean the defaults, which
// are given with their fields.
type Limits struct {
	Streams    int   // of items at a time, per machine and direction; 4
	BatchBytes int64 // NAR bytes of one stream, unless one item has more; 64 MiB
	BatchItems int   // items of one stream; 512

	PollInterval   time.Duration // between looks at a machine that is up; 10 s
	ContactTimeout time.Duration // of such a look; 20 s
	ConnectTimeout time.Duration // of the first, which may upload the agent; 5 min
	RetryMin       time.Duration // before a machine that is down is first tried again; 1 s
	RetryMax       time.Duration // the same, at most; 1 min

	// MachineLostAfter is how long a build waits for its machine, when that cannot be reached,
	// before it is built elsewhere; 5 min.
	MachineLostAfter time.Duration
	// AnswerTimeout is how long a machine that can be reached may be silent when it is asked
	// for something, or while items travel; and by how much a build may exceed its own limits
	// before the machine is to blame for not ending it. MachineLostAfter, but at least 5 s and
	// at most 5 min.
	AnswerTimeout time.Duration
	// SendPatience is how long a build that has not begun waits for a machine whose connection
	// broke, if that is less than MachineLostAfter; 10 s.
	SendPatience time.Duration
	// MaxAttempts is how many attempts may fail for reasons other than the derivation before
	// the build fails; 10.
	MaxAttempts int
	// AttemptDelay is the time before a build that has failed on all machines is tried again.
	// It doubles each time, up to 5 minutes; 1 s.
	AttemptDelay time.Duration
	// Retries is how often a derivation that failed by itself is tried again if its request
	// does not say; 0. DownloadRetries is the same for fixed-output derivations whose builder
	// failed, for which the network may be to blame; 3, negative for none.
	Retries         int
	DownloadRetries int
	// RunOnce says that no build is begun on a second machine while it goes on on the first.
	RunOnce bool
	// KeepMissingInputs says that no builds are made for inputs that nobody asked for: a build
	// that lacks one fails.
	KeepMissingInputs bool
	// StartGrace is how long a coordinator that starts with unfinished builds waits for its
	// machines to say what they have; 10 s.
	StartGrace time.Duration
	// HookGrace is how long an offloaded build that an earlier coordinator left waits for its
	// build hook to come back; 1 min.
	HookGrace time.Duration
	// AttachGrace is how long an attached build waits for a client that wants it; 1 min.
	AttachGrace time.Duration
	// QuarantineAfter is how many builds must fail on a machine and succeed elsewhere before it
	// is put into quarantine; 3, negative for never.
	QuarantineAfter int
	// QuarantineTime is how long a machine in quarantine gets no builds; 1 h.
	QuarantineTime time.Duration
	// WatchInterval is the time between looks at the machines file; 2 s.
	WatchInterval time.Duration
	// Timeout and MaxSilentTime bound builds whose requests do not say; 0 is no limit.
	Timeout       time.Duration
	MaxSilentTime time.Duration
	// IdleAlarm is how long a build that a free machine could take may wait; 1 min.
	IdleAlarm time.Duration
	// MaxLog bounds a build's log, in bytes; a longer one is cut. 256 MiB.
	MaxLog int64
}

// WithDefaults returns the limits with the defaults in place of those that are not given.
func (l Limits) WithDefaults() Limits {
	setDefault(&l.Streams, 4)
	setDefault(&l.BatchBytes, 64<<20)
	setDefault(&l.BatchItems, 512)
	setDefault(&l.PollInterval, 10*time.Second)
	setDefault(&l.ContactTimeout, 20*time.Second)
	setDefault(&l.ConnectTimeout, 5*time.Minute)
	setDefault(&l.RetryMin, time.Second)
	setDefault(&l.RetryMax, time.Minute)
	setDefault(&l.MachineLostAfter, 5*time.Minute)
	setDefault(&l.AnswerTimeout, min(max(l.MachineLostAfter, 5*time.Second), 5*time.Minute))
	setDefault(&l.SendPatience, 10*time.Second)
	setDefault(&l.MaxAttempts, 10)
	setDefault(&l.AttemptDelay, time.Second)
	if l.DownloadRetries == 0 {
		l.DownloadRetries = 3
	}
	setDefault(&l.StartGrace, 10*time.Second)
	setDefault(&l.HookGrace, time.Minute)
	setDefault(&l.AttachGrace, time.Minute)
	if l.QuarantineAfter == 0 {
		l.QuarantineAfter = 3
	}
	setDefault(&l.QuarantineTime, time.Hour)
	setDefault(&l.WatchInterval, 2*time.Second)
	setDefault(&l.IdleAlarm, time.Minute)
	setDefault(&l.MaxLog, 256<<20)
	return l
}

func setDefault[T int | int64 | time.Duration](v *T, value T) {
	if *v <= 0 {
		*v = value
	}
}
