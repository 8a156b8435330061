package store

// Measured is what one build used of its machine, as far as that could be measured. Zeros were
// not measured, and Unmeasured says why, or are too little to be told.
type Measured struct {
	// CPU is processor time in seconds, of the system for the build too.
	CPU float64 `json:"cpu,omitempty"`
	// PeakMemory is the most, in bytes, that the processes of the build had at a time, without
	// what the kernel can drop at will: caches of files. Where Method is MeasuredProcesses it
	// was looked at now and then, and memory that processes share counts for each.
	PeakMemory int64 `json:"peakMemory,omitempty"`
	// Disk is how many bytes the build's folder and outputs took on the disk at the end; less than
	// that if there were very many files, which Unmeasured says then.
	Disk int64 `json:"disk,omitempty"`
	// MemoryLimit is what the build's processes could have at most, in bytes; 0 is no limit.
	// KilledForMemory says that the kernel killed one of them for want of memory, for that limit's
	// or for the machine's: where it is not set that is not known, unless Method is MeasuredCgroup.
	MemoryLimit     int64 `json:"memoryLimit,omitempty"`
	KilledForMemory bool  `json:"killedForMemory,omitempty"`
	// Method is how CPU and PeakMemory were measured.
	Method MeasuredBy `json:"method,omitempty"`
	// Unmeasured says for people what could not be measured, or only in part, and why.
	Unmeasured string `json:"unmeasured,omitempty"`
}

// MeasuredBy says how something was measured.
type MeasuredBy string

// The ways to measure a build.
const (
	MeasuredCgroup    MeasuredBy = "cgroup"    // by the kernel, in a control group of its own
	MeasuredProcesses MeasuredBy = "processes" // by what /proc and wait4(2) say of its processes
)
