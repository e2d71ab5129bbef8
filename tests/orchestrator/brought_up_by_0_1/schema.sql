PRAGMA user_version = 1;
BEGIN TRANSACTION;
CREATE TABLE actions (
    uuid TEXT PRIMARY KEY,
    deployment TEXT NOT NULL REFERENCES deployments (name) ON DELETE CASCADE,
    command TEXT NOT NULL, options BLOB NOT NULL, state TEXT NOT NULL, started TEXT NOT NULL, ended TEXT,
    faults BLOB NOT NULL DEFAULT x'5b5d', refused INTEGER NOT NULL DEFAULT 0, exit_status INTEGER, who TEXT
) STRICT;
CREATE TABLE deployments (
    name TEXT PRIMARY KEY, project_location TEXT NOT NULL, state TEXT NOT NULL,
    failed_command TEXT, last_action_uuid TEXT, deployed BLOB
) STRICT;
CREATE TABLE lines (
    action TEXT NOT NULL REFERENCES actions (uuid) ON DELETE CASCADE,
    sequence INTEGER NOT NULL, time TEXT NOT NULL, level TEXT NOT NULL, text TEXT NOT NULL,
    stage TEXT, step TEXT, guest TEXT, host TEXT,
    PRIMARY KEY (action, sequence)
) STRICT, WITHOUT ROWID;
CREATE TABLE snapshots (
    deployment TEXT NOT NULL REFERENCES deployments (name) ON DELETE CASCADE,
    guest TEXT NOT NULL, name TEXT NOT NULL, position INTEGER NOT NULL, xml TEXT NOT NULL,
    PRIMARY KEY (deployment, guest, name)
) STRICT, WITHOUT ROWID;
CREATE TABLE steps (
    action TEXT NOT NULL REFERENCES actions (uuid) ON DELETE CASCADE,
    number INTEGER NOT NULL, name TEXT NOT NULL, stage TEXT NOT NULL, state TEXT NOT NULL,
    started TEXT NOT NULL, ended TEXT, guest TEXT, host TEXT,
    PRIMARY KEY (action, number)
) STRICT, WITHOUT ROWID;
CREATE INDEX actions_of ON actions (deployment);
COMMIT;
