"""Where tests kill a study."""

import optuna

from afcore.storage.objects import Storage

SPOTS = {
    Storage: ("put", "put_new"),
    optuna.storages.RDBStorage: (
        "_create_new_trial",
        "_set_trial_param",
        "set_trial_user_attr",
        "set_trial_system_attr",
        "set_trial_intermediate_value",
        "set_trial_state_values",
    ),
}
"""What changes a store or a study: a kill comes before one of these."""
