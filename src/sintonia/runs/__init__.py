"""The run directory: the only thing that the platform and the trainer share.

::

    runs/ftjob-.../
      spec.json               written once by the platform, never changed
      data/                   the job's own copy of its files
      measured.json           choices measured at the first start, reused by later attempts
      run.lock                held by the live trainer
      attempt-1/              one for each launch; an old trainer writes only into its own
        records.jsonl         step | checkpoint | event, numbered, append-only
        output.log            what the process printed
        heartbeat             touched while it lives
        exit.json             succeeded | failed | stopped; written last, atomically
      references/training/    what the start thought of each answer, where preferences are learned
      checkpoints/step-000200/   epoch ends: adapter, state, manifest last
      snapshots/step-000123/     resume points between them; the newest ones only
"""
