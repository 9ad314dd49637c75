"""One contender does the work of one row, once, in this process, and leaves its numbers as JSON: `worker.py ROW CONTENDER RESULT [options as JSON]`.

Only what Python has loaded anyway is imported before the work begins, so that the import row sees a fresh process."""
import sys
import time


class Job:
    "What a row's `work` gets to know about this run."
    run = 0          # number of the run, used as its seed
    threads = 2      # for torch's own thread pool
    data = ''        # folder with the row's data
    quick = False    # a fraction of the work: does it run at all?
    clock = staticmethod(time.perf_counter)

    def __init__(self, options):
        vars(self).update(options)
        if getattr(self, 'busy', False): self.threads, self.clock = 1, time.process_time


def main(row, contender, result, options='{}'):
    from json import dumps, loads
    job = Job(loads(options))
    from rows import load
    work = load(row).work
    if row != 'imports': prepare(job)
    numbers = profiled(work, contender, job) if getattr(job, 'profile', 0) else work(contender, job)
    with open(result, 'w', encoding='utf-8') as f: f.write(dumps(numbers))


def prepare(job):
    "The same threads and the same silence for everyone."
    import warnings
    import torch
    warnings.simplefilter('ignore')
    torch.set_num_threads(job.threads)
    torch.manual_seed(job.run)


def profiled(work, contender, job):
    "The work under cProfile; the lines that cost most of themselves are printed."
    import cProfile
    import pstats
    profile = cProfile.Profile()
    numbers = profile.runcall(work, contender, job)
    pstats.Stats(profile).sort_stats('tottime').print_stats(job.profile)
    return numbers


if __name__ == '__main__': main(*sys.argv[1:])
