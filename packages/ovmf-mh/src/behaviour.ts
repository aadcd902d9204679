/** Whether a peculiarity of what was posted is there. */
export type Behaviour = 'asPosted' | 'fixed';
